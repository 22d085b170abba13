-- 3 why, 4 time-to-live (s)
local id = ARGV[2]
local job = key('job', id)
local state = redis.call('HGET', job, 'state')
if not state then return {'UNKNOWN', ''} end
if TERMINAL[state] then return {'ENDED', state} end
local why = ARGV[3] ~= '' and ARGV[3] or 'cancelled'
if state == 'queued' then
  local attempt = tonumber(redis.call('HGET', job, 'attempt'))
  emit(id, {'s' .. cjson.encode({type = 'cancelled', message = why})}, attempt, '', '')
  conclude(id, state, 'cancelled', '', why, '', tonumber(ARGV[4]), TOLD_WITHIN, true)
  return {'CANCELLED', 'cancelled'}
end
if redis.call('HGET', job, 'cancel') == '' then redis.call('HSET', job, 'cancel', why) end
local node = redis.call('HGET', job, 'node')
redis.call('PUBLISH', key('control', node .. ':' .. id), cjson.encode({op = 'cancel', why = why}))
return {'ASKED', state}
