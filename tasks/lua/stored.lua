-- Celery has the result: mark it, if the record is still there (HSET alone would make a new key).
local job = key('job', ARGV[2])
redis.call('ZREM', PREFIX .. 'untold', ARGV[2])
if redis.call('EXISTS', job) == 0 then return 0 end
return redis.call('HSET', job, 'result_stored', 1)
