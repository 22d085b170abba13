-- 3 owner, 4 fence, 5 ttl, 6 attempt, 7 spec, 8 digest, 9 queue, 10 priority step, 11 user,
-- 12 max attempts, 13 node, 14 slot, 15 GPUs, 16 last seq, 17 last batch, 18 event, 19 message,
-- 20 its delivery tag, 21 '': it runs on; else ms after which it is queued again.
-- A running attempt's record is gone, as after a loss of Redis's data: written again by who holds the
-- lease. Whoever has a newer fence, or the same one, keeps it. One whose lease may have run out before
-- is written as queued, where there is no record at all; if somebody else has been given the job
-- since, that one has until then to write its own.
local id, owner, fence, ttl = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local job = key('job', id)
local h = redis.call('HMGET', job, 'fence', 'state', 'seq', 'owner', 'message')
local queued = ARGV[21] ~= ''
if h[1] and h[4] == owner and not queued then return 'OK' end
if h[1] and (queued or tonumber(h[1]) >= fence or TERMINAL[h[2]]) then return 'LOST' end
if not h[1] then
  redis.call('HSET', job, 'submitted', NOW, 'expires', 0, 'cancel', '', 'reason', '', 'error', '',
    'spec', ARGV[7], 'digest', ARGV[8], 'queue', ARGV[9], 'priority', ARGV[10], 'user', ARGV[11],
    'max_attempts', ARGV[12])
  redis.call('SADD', PREFIX .. 'queues', ARGV[9])
  if ARGV[11] ~= '' then
    redis.call('ZADD', key('user', ARGV[11]), NOW, id)
    redis.call('PERSIST', key('user', ARGV[11]))
    redis.call('HINCRBY', PREFIX .. 'live', ARGV[11], 1)
  end
end
if (h[5] or '') == '' then redis.call('HSET', job, 'message', ARGV[19], 'tag', ARGV[20]) end
redis.call('HSET', job, 'fence', fence, 'attempt', ARGV[6], 'ran', 1, 'batch', ARGV[17],
  'seq', math.max(tonumber(ARGV[16]), tonumber(h[3] or '0')))
if queued then
  redis.call('HSET', job, 'owner', '', 'node', '', 'slot', '', 'exp', 0)
  emit(id, {ARGV[18]}, tonumber(ARGV[6]), ARGV[13], ARGV[14])
  queue_again(id, nil, tonumber(ARGV[21]))
  return 'OK'
end
if h[1] then release(id) end
move(id, h[2], 'running')
wait_no_more(redis.call('HGET', job, 'queue'), id)
redis.call('HSET', job, 'owner', owner, 'node', ARGV[13], 'slot', ARGV[14], 'gpus', ARGV[15],
  'exp', NOW + ttl, 'started', NOW, 'running', NOW, 'counted', NOW)
redis.call('ZADD', PREFIX .. 'leases', NOW + ttl, id)
redis.call('ZREM', PREFIX .. 'expiring', id)
redis.call('ZREM', PREFIX .. 'delayed', id)
hold(id, ARGV[13], ARGV[14])
emit(id, {ARGV[18]}, tonumber(ARGV[6]), ARGV[13], ARGV[14])
return 'OK'
