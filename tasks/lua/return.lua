-- 3 delivery tag, 4 '1': its worker may be dead. A message that a worker has and does not use goes
-- back to where it was, first in its queue, under a tag that no copy of it has. Where the worker may
-- be dead, it goes back if its job waits for it, and away (2) if its job is over and Celery knows; so
-- does a summons to one slot, whose list nobody else reads: a living slot summons the job again.
local id, tag = ARGV[2], ARGV[3]
local held = redis.call('HGET', PREFIX .. 'unacked', tag)
local raw, queue
if held then raw, queue = string.match(held, '^%[(.*), [^,]*, "([^,]*)"%]$') end
local summons = queue and string.sub(queue, 1, 5) == 'slot.'
local function forget()
  redis.call('ZREM', PREFIX .. 'unacked_index', tag)
  redis.call('HDEL', PREFIX .. 'unacked', tag)
end
if ARGV[4] == '1' then
  local h = redis.call('HMGET', key('job', id), 'state', 'result_stored')
  if (TERMINAL[h[1]] and h[2]) or summons then
    forget()
    return 2
  end
  if h[1] ~= 'queued' then return 0 end
end
if not raw then return 0 end
forget()
local step = int(cjson.decode(raw).properties.priority or 0)
local fresh = (string.match(tag, '^(.*)%.r%d+$') or tag) .. '.r' .. int(NOW)
local from, to = string.find(raw, '"' .. tag .. '"', 1, true)
if from then raw = string.sub(raw, 1, from) .. fresh .. string.sub(raw, to) end
local list = list_of(queue, step)
redis.call('RPUSH', list, raw)
if summons then redis.call('EXPIRE', list, SUMMONS_KEPT) end
return 1
