-- 2… names of queues: those in which nothing waits, and which no live node reads, are forgotten. A job
-- that is queued there again makes them known again. Returns how many went.
local gone = 0
for index = 2, #ARGV do
  local queue = ARGV[index]
  local left = redis.call('EXISTS', key('waiting', queue), PREFIX .. queue)
  for step = 3, 9, 3 do left = left + redis.call('EXISTS', PREFIX .. queue .. SEPARATOR .. step) end
  if left == 0 and redis.call('ZCOUNT', key('serving', queue), NOW, '+inf') == 0 then
    gone = gone + redis.call('SREM', PREFIX .. 'queues', queue)
  end
end
return gone
