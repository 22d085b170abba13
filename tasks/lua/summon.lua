-- 5 queue: the job's message, once more, for the one slot that has the job's attempt.
local kept = redis.call('HMGET', job, 'message', 'tag')
if (kept[1] or '') == '' then return 0 end
redis.call('LPUSH', PREFIX .. ARGV[5], retagged(id, kept[1], kept[2]))
redis.call('EXPIRE', PREFIX .. ARGV[5], SUMMONS_KEPT)   -- a slot that never comes back reads none
return 1
