-- Celery's result of a task, stored and published, unless it has succeeded before: a duplicate must
-- not take that back. Nor may a supervisor that stood still, and has lost the job, say that it gets on
-- when it is over: nobody would hear of its end again. 3 Celery's key, 4 value, 5 time-to-live (s) or 0, 6: 1 if this is all that
-- Celery must be told of a job's end
local READY = {SUCCESS = true, FAILURE = true, REVOKED = true}
local function status(text)
  local read, meta = pcall(cjson.decode, text or '')
  return read and type(meta) == 'table' and meta.status or ''
end
local was = status(redis.call('GET', ARGV[3]))
if was == 'SUCCESS' then return 0 end
local over = READY[was] or TERMINAL[redis.pcall('HGET', key('job', ARGV[2]), 'state')]
if over and not READY[status(ARGV[4])] then return 0 end
if ARGV[5] == '0' then
  redis.call('SET', ARGV[3], ARGV[4])
else
  redis.call('SETEX', ARGV[3], ARGV[5], ARGV[4])
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
if ARGV[6] == '1' and redis.call('EXISTS', key('job', ARGV[2])) == 1 then
  redis.call('ZREM', PREFIX .. 'untold', ARGV[2])
  redis.call('HSET', key('job', ARGV[2]), 'result_stored', 1)
end
return 1
