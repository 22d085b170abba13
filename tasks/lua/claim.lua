-- 3 owner, 4 node, 5 slot, 6 ttl, 7 grace, 8 delivery tag, 9 time-to-live once terminal (s),
-- 10 GPUs of the slot
local id, owner, node, slot = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ttl, grace, tag, keep = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local job = key('job', id)
local h = redis.call('HMGET', job, 'state', 'owner', 'fence', 'exp', 'cancel', 'expires', 'attempt',
  'max_attempts', 'message', 'spec', 'reason', 'queue', 'ran', 'node', 'image', 'image_ref', 'tag')
local state = h[1]
-- The reason for which every living node has handed the job back, this one first; '' for none.
local function everywhere()
  local why = redis.call('HGET', job, 'away:' .. node)
  if not why then return '' end
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'nodes', NOW - NODE_TTL, '+inf')) do
    if redis.call('HGET', job, 'away:' .. other) ~= why then return '' end
  end
  return why
end
local function ack()
  if tag ~= '' then
    redis.call('ZREM', PREFIX .. 'unacked_index', tag)
    redis.call('HDEL', PREFIX .. 'unacked', tag)
  end
end
local function no(why)
  local r = redis.call('HMGET', job, 'state', 'result', 'reason', 'error', 'result_stored')
  return {'NO', why, r[1] or '', r[2] or '', r[3] or '', r[4] or '', r[5] or ''}
end
if not state then return no('unknown') end
local attempt, fence = tonumber(h[7]), tonumber(h[3])
if (h[9] or '') == '' and tag ~= '' and not TERMINAL[state] then
  -- published by a program that records nothing, or the record was lost and written again without it:
  -- keep what kombu delivered, without its wrapping
  local held = redis.call('HGET', PREFIX .. 'unacked', tag)
  local raw = held and string.match(held, '^%[(.*), [^,]*, [^,]*%]$')
  if raw then
    redis.call('HSET', job, 'message', raw, 'tag', tag)
    h[9], h[17] = raw, tag
  end
end
local function ours()
  return {'OK', fence, attempt, h[10], h[11] or '', h[15] or '', h[16] or '', everywhere(),
    h[9] or '', h[17] or ''}
end
if TERMINAL[state] then ack() return no('terminal') end
if RUNS[state] and h[2] == owner then
  ack()
  return ours()
end
if RUNS[state] and tonumber(h[4]) + grace > NOW then ack() return no('busy') end
if h[5] ~= '' then
  ack()
  emit(id, {'s' .. cjson.encode({type = 'cancelled', message = h[5]})}, attempt, node, slot)
  conclude(id, state, 'cancelled', '', h[5], '', keep, TOLD_WITHIN)
  return no('cancelled')
end
local expires = tonumber(h[6])
if not h[13] and expires > 0 and expires <= NOW then
  ack()
  local message = 'not started before its expiry'
  emit(id, {'s' .. cjson.encode({type = 'failed', reason = 'timeout', message = message})},
    attempt, '', '')
  conclude(id, state, 'failed', 'timeout', message, '', keep, TOLD_WITHIN)
  return no('expired')
end
if RUNS[state] and attempt >= tonumber(h[8]) then
  ack()
  local message = 'node ' .. h[14] .. ' did not renew its lease in attempt ' .. int(attempt)
    .. ', the last one'
  emit(id, {'s' .. cjson.encode({type = 'failed', reason = 'node_lost', message = message})},
    attempt, node, slot)
  count(h[14], 'lost', 1)
  conclude(id, state, 'failed', 'node_lost', message, '', keep, TOLD_WITHIN)
  return no('exhausted')
end
if RUNS[state] then
  local message = 'node ' .. h[14] .. ' did not renew its lease'
  emit(id, {'s' .. cjson.encode({type = 'retrying', reason = 'node_lost', message = message,
    delay_seconds = 0})}, attempt, h[14], '')
  redis.call('HSET', job, 'reason', 'node_lost', 'error', message)
  count(h[14], 'lost', 1)
  release(id)
  h[11] = 'node_lost'
end
local avoid = tonumber(redis.call('HGET', job, 'avoid:' .. node) or '0')
if avoid > NOW then
  ack()
  queue_again(id, state, 1000, keep)   -- another node may have it; this one sees it again in a second
  return no('avoided')
end
ack()
fence, attempt = fence + 1, attempt + 1
move(id, state, 'starting')
redis.call('HSET', job, 'owner', owner, 'node', node, 'slot', slot, 'fence', fence, 'attempt', attempt,
  'exp', NOW + ttl, 'started', NOW, 'batch', 0, 'gpus', ARGV[10], 'counted', NOW,
  'running', 0)
redis.call('HDEL', job, 'reading', 'adoptions')
redis.call('ZADD', PREFIX .. 'leases', NOW + ttl, id)
hold(id, node, slot)
count(node, 'claims', 1)
local since = redis.call('ZSCORE', key('waiting', h[12]), id)
if since then observe(node, 'wait', math.max(0, NOW - tonumber(since))) end
redis.call('EXPIRE', key('counts', node), COUNTS_KEPT)   -- a node that works keeps its counts
wait_no_more(h[12], id)
redis.call('ZREM', PREFIX .. 'expiring', id)
redis.call('ZREM', PREFIX .. 'delayed', id)
return ours()
