-- 5 the nonce (with its key), 6 how long it is remembered (ms): use it for this submission of this
-- job. Returns '' if it is its own (a retry uses it again), else whose it is.
--
-- The record is for any producer to write, the nonce is not. So it has, beside whose it is, the fence
-- and the owner that used it last, or that the job has ended: a record that is set back is found out.
local mine = id .. '@' .. redis.call('HGET', job, 'submitted')
local nonce, of = key('nonce', ARGV[5]), nonces_of(id)
local used = redis.call('GET', nonce)
if used then
  local whose, fence, owner = string.match(used, '^(%S+) ?(%S*) ?(%S*)$')
  if whose ~= mine or fence == 'ended' then return whose or used end
  local last, now = tonumber(fence) or 0, tonumber(ARGV[4])   -- older versions wrote no fence
  if now < last or (now == last and owner ~= ARGV[3]) then return whose end
end
local left = math.max(redis.call('PTTL', nonce), tonumber(ARGV[6]))
redis.call('SET', nonce, mine .. ' ' .. ARGV[4] .. ' ' .. ARGV[3], 'PX', int(left))
redis.call('SADD', of, ARGV[5])
redis.call('PEXPIRE', of, int(math.max(redis.call('PTTL', of), left)))
return ''
