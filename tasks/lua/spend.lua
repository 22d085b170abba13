-- 5 the nonce (with its key), 6 how long it is remembered (ms): use it for this submission of this
-- job. Returns '' if it is its own (a retry uses it again), else whose it is.
--
-- The record is for any producer to write, the nonce is not. So there stands beside whose it is the
-- fence and the owner that used it last, or that the job has ended: a record that is set back is found
-- out. In a key of its own: an older version compares the first one as a whole.
local mine = id .. '@' .. redis.call('HGET', job, 'submitted')
local nonce, last, of = key('nonce', ARGV[5]), last_use_of(ARGV[5]), nonces_of(id)
local whose = redis.call('GET', nonce)
if whose then
  if whose ~= mine then return whose end
  local fence, owner = string.match(redis.call('GET', last) or '', '^(%S+) ?(%S*)$')
  if fence == 'ended' then return whose end
  local before, now = tonumber(fence) or 0, tonumber(ARGV[4])   -- older versions write none
  if now < before or (now == before and owner ~= ARGV[3]) then return whose end
end
local left = int(math.max(redis.call('PTTL', nonce), tonumber(ARGV[6])))
redis.call('SET', nonce, mine, 'PX', left)
redis.call('SET', last, ARGV[4] .. ' ' .. ARGV[3], 'PX', left)
redis.call('SADD', of, ARGV[5])
redis.call('PEXPIRE', of, int(math.max(redis.call('PTTL', of), left)))
return ''
