-- 3 delivery tag, 4 '1': its worker may be dead. A message that a worker has and does not use goes
-- back to where it was, first in its queue, under a tag that no copy of it has. Where the worker may
-- be dead, it goes back if its job waits for it, and away (2) if its job is over and Celery knows.
local id, tag = ARGV[2], ARGV[3]
local function forget()
  redis.call('ZREM', PREFIX .. 'unacked_index', tag)
  redis.call('HDEL', PREFIX .. 'unacked', tag)
end
if ARGV[4] == '1' then
  local h = redis.call('HMGET', key('job', id), 'state', 'result_stored')
  if TERMINAL[h[1]] and h[2] then
    forget()
    return 2
  end
  if h[1] ~= 'queued' then return 0 end
end
local held = redis.call('HGET', PREFIX .. 'unacked', tag)
local raw, queue
if held then raw, queue = string.match(held, '^%[(.*), [^,]*, "([^,]*)"%]$') end
if not raw then return 0 end
forget()
local step = int(cjson.decode(raw).properties.priority or 0)
local fresh = (string.match(tag, '^(.*)%.r%d+$') or tag) .. '.r' .. int(NOW)
local from, to = string.find(raw, '"' .. tag .. '"', 1, true)
if from then raw = string.sub(raw, 1, from) .. fresh .. string.sub(raw, to) end
redis.call('RPUSH', list_of(queue, step), raw)
return 1
