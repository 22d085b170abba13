-- Push an ended job's message again: the worker that gets it tells Celery how the job ended.
local id = ARGV[2]
local h = redis.call('HMGET', key('job', id), 'state', 'result_stored')
if not h[1] or not TERMINAL[h[1]] or h[2] then return 0 end
local pushed = push(id)
wait_no_more(redis.call('HGET', key('job', id), 'queue'), id)
return pushed and 1 or 0
