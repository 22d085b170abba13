-- 3 since when it waits (ms), 4 time-to-live once terminal (s): push the message of a queued job that has none, if nothing changed.
local id = ARGV[2]
local job = key('job', id)
local h = redis.call('HMGET', job, 'state', 'queue')
if h[1] ~= 'queued' then return 0 end
local since = redis.call('ZSCORE', key('waiting', h[2]), id)
if not since or tonumber(since) ~= tonumber(ARGV[3]) then return 0 end
return push_or_fail(id, tonumber(ARGV[4])) and 1 or 0
