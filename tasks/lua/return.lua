-- 3 delivery tag, 4 '1': only if its job is queued. A message that a worker has and does not use goes
-- back to where it was, first in its queue, under a tag that no copy of it has.
local id, tag = ARGV[2], ARGV[3]
if ARGV[4] == '1' and redis.call('HGET', key('job', id), 'state') ~= 'queued' then return 0 end
local held = redis.call('HGET', PREFIX .. 'unacked', tag)
local raw, queue
if held then raw, queue = string.match(held, '^%[(.*), [^,]*, "([^,]*)"%]$') end
if not raw then return 0 end
redis.call('ZREM', PREFIX .. 'unacked_index', tag)
redis.call('HDEL', PREFIX .. 'unacked', tag)
local step = int(cjson.decode(raw).properties.priority or 0)
local fresh = (string.match(tag, '^(.*)%.r%d+$') or tag) .. '.r' .. int(NOW)
local from, to = string.find(raw, '"' .. tag .. '"', 1, true)
if from then raw = string.sub(raw, 1, from) .. fresh .. string.sub(raw, to) end
redis.call('RPUSH', list_of(queue, step), raw)
return 1
