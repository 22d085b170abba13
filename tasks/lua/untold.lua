-- Ended jobs of which Celery should have a result by now and has none, at most 100. Each comes again
-- after a while that doubles, until it is told or its record is gone.
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'untold', '-inf', NOW, 'LIMIT', 0, 100)) do
  local job = key('job', id)
  local h = redis.call('HMGET', job, 'state', 'result_stored')
  if h[1] and TERMINAL[h[1]] and not h[2] then
    local tries = redis.call('HINCRBY', job, 'tells', 1)
    local again = math.min(TOLD_WITHIN * 2 ^ (tries - 1), 3600000)
    redis.call('ZADD', PREFIX .. 'untold', NOW + again, id)
    found[#found + 1] = id
  else
    redis.call('ZREM', PREFIX .. 'untold', id)
  end
end
return found
