-- 5 the nonce (with its key), 6 how long it is remembered (ms): use it for this submission of this
-- job. Returns '' if it is its own (a retry uses it again), else whose it is.
local mine = id .. '@' .. redis.call('HGET', job, 'submitted')
local nonce = key('nonce', ARGV[5])
if redis.call('SET', nonce, mine, 'NX', 'PX', ARGV[6]) then return '' end
local whose = redis.call('GET', nonce)
return whose == mine and '' or whose
