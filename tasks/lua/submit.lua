-- 3 spec, 4 digest, 5 queue, 6 priority step, 7 user, 8 max attempts, 9 expires (ms from now, or
-- minus the ms since the epoch, or 0), 10 message, 11 its delivery tag, 12 queued event,
-- 13 what is missing if no live node reads the queue, then pairs of a queue that asks for less and
-- what is missing where a live node reads that
local id = ARGV[2]
local job = key('job', id)
local digest = redis.call('HGET', job, 'digest')
if digest then
  if digest ~= ARGV[4] then return 'CONFLICT' end
  if ARGV[10] ~= '' and redis.call('HGET', job, 'message') == '' then
    redis.call('HSET', job, 'message', ARGV[10], 'tag', ARGV[11])
  end
  return 'STOOD'
end
local expires = tonumber(ARGV[9])
if expires > 0 then expires = NOW + expires elseif expires < 0 then expires = -expires end
redis.call('HSET', job, 'spec', ARGV[3], 'digest', ARGV[4], 'queue', ARGV[5], 'priority', ARGV[6],
  'user', ARGV[7], 'max_attempts', ARGV[8], 'expires', int(expires), 'message', ARGV[10],
  'tag', ARGV[11], 'submitted', NOW, 'fence', 0, 'attempt', 0, 'seq', 0, 'owner', '', 'exp', 0,
  'node', '', 'slot', '', 'cancel', '', 'reason', '', 'error', '')
move(id, nil, 'queued')
wait_in(ARGV[5], id, ARGV[6])
if expires > 0 then redis.call('ZADD', PREFIX .. 'expiring', expires, id) end
if ARGV[7] ~= '' then
  redis.call('ZADD', key('user', ARGV[7]), NOW, id)
  redis.call('PERSIST', key('user', ARGV[7]))
  redis.call('HINCRBY', PREFIX .. 'live', ARGV[7], 1)
end
-- It is accepted whoever is there; where nobody is, its first event says so.
local function served(queue)
  return redis.call('ZCOUNT', key('serving', queue), NOW, '+inf') > 0
end
local event = ARGV[12]
if ARGV[13] ~= '' and not served(ARGV[5]) then
  local missing = ARGV[13]
  for i = 14, #ARGV, 2 do
    if served(ARGV[i]) then missing = ARGV[i + 1] break end
  end
  event = string.sub(event, 1, -2) .. ',"missing":' .. cjson.encode(missing) .. '}'
end
emit(id, {event}, 0, '', '')
if ARGV[10] ~= '' then redis.call('LPUSH', list_of(ARGV[5], ARGV[6]), ARGV[10]) end
return 'NEW'
