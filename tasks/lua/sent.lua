-- 5 the store, 6 what is in it (JSON), or '': nothing whole yet. Which jobs have checkpoints in a store
-- is written before anything is put there, so that whoever finds the job over can remove it.
redis.call('HSET', PREFIX .. 'checkpoints', id, ARGV[5])
if ARGV[6] ~= '' then redis.call('HSET', job, 'sent', ARGV[6]) end
return 'OK'
