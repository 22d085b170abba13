-- What all scripts share. ARGV[1] is the key prefix, ARGV[2] the job's id (where there is one).
-- Redis's clock is the only clock; all times are its milliseconds.
local PREFIX = ARGV[1]
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
local TERMINAL = {succeeded = true, failed = true, cancelled = true, rejected = true}
local RUNS = {starting = true, running = true, paused = true}
local STATES = {'queued', 'starting', 'running', 'paused', 'succeeded', 'failed', 'cancelled',
  'rejected'}
-- What is kept of a job. The tail is what the job itself can fill, so it is bounded in bytes too.
local TAIL, TAIL_SLACK, TAIL_BYTES = 2000, 200, 4 * 1024 * 1024
local HISTORY = 10000
-- What an error begins with where the server cannot do what it is asked for, whatever the record says.
local OF_THE_SERVER = {OOM = true, MISCONF = true, READONLY = true, NOREPLICAS = true, NOPERM = true}
local TOLD_WITHIN = 30000   -- ms in which whoever ended a job stores Celery's result of it
local SUMMONS_KEPT = 3600   -- s that a slot's own messages wait for it; they are sent again and again
local AVOID_MOST = 600000   -- ms that a node which handed a job back does not get it, at most
local NODE_TTL = 30000      -- ms that a node is alive without a heartbeat; `tasks.keys` has the same
local SEPARATOR = '\6\22'   -- kombu's, between a queue and its priority step

local DAY = 86400000
local USAGE_KEPT = 400 * 86400   -- s that a day's usage stays
local COUNTS_KEPT = 86400        -- s that a node's counts stay without it
-- Upper bounds (ms) of the histograms in a node's counts; `tasks.counts` has the same.
local BOUNDS = {
  wait = {100, 500, 1000, 5000, 15000, 60000, 300000, 1800000, 7200000, 43200000},
  start = {5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30000, 120000},
  run = {1000, 10000, 60000, 300000, 1800000, 7200000, 43200000, 172800000, 604800000},
}

local function key(kind, name) return PREFIX .. kind .. ':' .. name end
local function int(value) return string.format('%d', value) end

-- Drop the oldest of the tail, once it is too long or too large, down to nine tenths of the bounds.
local function trim(id, added)
  local tail = key('tail', id)
  local bytes = redis.call('HINCRBY', key('job', id), 'tail_bytes', added)
  local count = redis.call('XLEN', tail)
  if count <= TAIL + TAIL_SLACK and bytes <= TAIL_BYTES then return end
  local before = bytes
  while count > TAIL or bytes > TAIL_BYTES * 0.9 do
    local first = redis.call('XRANGE', tail, '-', '+', 'COUNT', 20)
    if #first == 0 then break end
    local last
    for _, row in ipairs(first) do
      if count <= TAIL and bytes <= TAIL_BYTES * 0.9 then break end
      bytes, count, last = bytes - #row[2][2], count - 1, row[1]
    end
    local seq = tonumber(string.match(last, '^(%d+)'))
    redis.call('XTRIM', tail, 'MINID', '=', int(seq + 1) .. '-0')
  end
  redis.call('HINCRBY', key('job', id), 'tail_bytes', bytes - before)
end

-- Number, store and publish events. A body is 's' (state) or 't' (tail) and a JSON object.
local function emit(id, bodies, attempt, node, slot)
  local count = #bodies
  if count == 0 then return tonumber(redis.call('HGET', key('job', id), 'seq') or '0') end
  local last = redis.call('HINCRBY', key('job', id), 'seq', count)
  local history, tail = key('history', id), key('tail', id)
  local head = '{"v":1,"job_id":' .. cjson.encode(id) .. ',"attempt":' .. int(attempt) .. ',"seq":'
  local rest = ',"ts":' .. string.format('%.3f', NOW / 1000) .. ',"node":' .. cjson.encode(node)
    .. ',"slot":' .. cjson.encode(slot) .. ','
  local said, tailed = {}, 0
  for i, body in ipairs(bodies) do
    local seq = int(last - count + i)
    local envelope = head .. seq .. rest .. string.sub(body, 3)
    local state = string.sub(body, 1, 1) == 's'
    redis.call('XADD', state and history or tail, seq .. '-0', 'e', envelope)
    if not state then tailed = tailed + #envelope end
    said[i] = envelope
  end
  if tailed > 0 then trim(id, tailed) end
  redis.call('XTRIM', history, 'MAXLEN', '~', HISTORY)
  redis.call('PUBLISH', key('events', id), table.concat(said, '\n'))
  return last
end

-- The jobs of a user in a state; no state has a colon in its name.
local function of_user(state, user) return key('state', state .. ':' .. user) end

-- Returns whose the job is.
local function move(id, before, after)
  if before == after then return end
  local user = redis.call('HGET', key('job', id), 'user') or ''
  if before then redis.call('ZREM', key('state', before), id) end
  redis.call('ZADD', key('state', after), NOW, id)
  if user ~= '' then
    if before then redis.call('ZREM', of_user(before, user), id) end
    redis.call('ZADD', of_user(after, user), NOW, id)
  end
  redis.call('HSET', key('job', id), 'state', after)
  return user
end

-- What a node's metrics are made of: counted here, so that no process of the node has to live for it.
local function count(node, field, by)
  if node == '' then return end
  local counts = key('counts', node)
  -- a new field is the first there is, where the node has left: what is late must not stay for ever
  if redis.call('HINCRBY', counts, field, by) == by then
    redis.call('EXPIRE', counts, COUNTS_KEPT)
  end
end

local function observe(node, what, ms)
  local bucket = #BOUNDS[what] + 1
  for i, bound in ipairs(BOUNDS[what]) do
    if ms <= bound then bucket = i break end
  end
  count(node, what .. ':' .. bucket, 1)
  count(node, what .. ':ms', ms)
end

-- Slot-time and GPU-time since the last time that this was said, to the job's user and this day.
local function account(id)
  local job = key('job', id)
  local h = redis.call('HMGET', job, 'user', 'gpus', 'counted')
  if not h[3] then return end
  local ms, day = math.max(0, NOW - tonumber(h[3])), int(math.floor(NOW / DAY))
  local used, users = key('usage', day), key('usage-users', day)
  redis.call('HSET', job, 'counted', NOW)
  redis.call('HINCRBY', used, 'slot:' .. h[1], ms)
  if h[2] ~= '0' then redis.call('HINCRBY', used, 'gpu:' .. h[1], ms * tonumber(h[2])) end
  if redis.call('ZADD', users, 0, h[1]) == 1 then
    redis.call('EXPIRE', used, USAGE_KEPT)
    redis.call('EXPIRE', users, USAGE_KEPT)
  end
end

local function kind_of(slot) return string.match(slot, '^%a+') or 'other' end

-- Who holds which slot.
local function hold(id, node, slot)
  redis.call('HSET', key('holds', node), slot, id)
  redis.call('ZADD', key('busy', kind_of(slot)), NOW, node .. '/' .. slot)
end

local function release(id)
  local h = redis.call('HMGET', key('job', id), 'node', 'slot')
  if not h[1] or h[1] == '' or redis.call('HGET', key('holds', h[1]), h[2]) ~= id then return end
  redis.call('HDEL', key('holds', h[1]), h[2])
  redis.call('ZREM', key('busy', kind_of(h[2])), h[1] .. '/' .. h[2])
end

-- The queue as a line: by priority, then by when each came. `waiting` has the times alone.
local function wait_in(queue, id, step)
  redis.call('SADD', PREFIX .. 'queues', queue)   -- `forget` may have taken it out meanwhile
  redis.call('ZADD', key('waiting', queue), NOW, id)
  redis.call('ZADD', key('line', queue), tonumber(step) * 1e14 + NOW, id)
end

local function wait_no_more(queue, id)
  redis.call('ZREM', key('waiting', queue), id)
  redis.call('ZREM', key('line', queue), id)
end

-- A user's index lives as long as a job of theirs does, and then as long as their last records.
local function leave_user(user, ttl)
  local index = key('user', user)
  for _, old in ipairs(redis.call('ZRANGE', index, 0, 9)) do
    if redis.call('EXISTS', key('job', old)) == 0 then redis.call('ZREM', index, old) end
  end
  if redis.call('HINCRBY', PREFIX .. 'live', user, -1) <= 0 then
    redis.call('HDEL', PREFIX .. 'live', user)
    redis.call('EXPIRE', index, ttl)
  end
end

-- Where the nonces are that a job of this id has used. Not in the record, which producers may write.
local function nonces_of(id) return key('nonce', 'of:' .. id) end
local function last_use_of(name) return key('nonce', 'last:' .. name) end

-- The job has ended: what it was signed with is not used again, whatever its record says later.
local function end_nonces(id)
  local names = redis.call('SMEMBERS', nonces_of(id))
  if #names == 0 then return end
  for _, name in ipairs(names) do
    local left = redis.call('PTTL', key('nonce', name))
    if left > 0 then redis.call('SET', last_use_of(name), 'ended', 'PX', left) end
  end
  redis.call('DEL', nonces_of(id))
end

-- The end of a job: its keys get their time-to-live now, and not before. Celery has no result of it
-- yet; who calls this tells it within `told_within` ms, or else the reaper does. `by_producer`: whose
-- account may not touch nonces.
local function conclude(id, before, after, reason, message, result, ttl, told_within, by_producer)
  local job = key('job', id)
  local user = move(id, before, after)
  release(id)
  if not by_producer then end_nonces(id) end
  redis.call('HSET', job, 'reason', reason, 'error', message, 'result', result, 'owner', '',
    'exp', 0, 'finished', NOW)
  redis.call('ZREM', PREFIX .. 'leases', id)
  redis.call('ZREM', PREFIX .. 'delayed', id)
  redis.call('ZREM', PREFIX .. 'expiring', id)
  wait_no_more(redis.call('HGET', job, 'queue'), id)
  for _, kind in ipairs({'job', 'history', 'tail'}) do redis.call('EXPIRE', key(kind, id), ttl) end
  local function keep(ended)
    redis.call('ZREMRANGEBYSCORE', ended, '-inf', NOW - ttl * 1000)
    redis.call('EXPIRE', ended, ttl)
  end
  keep(key('state', after))
  redis.call('ZADD', PREFIX .. 'untold', NOW + told_within, id)
  if user ~= '' then
    keep(of_user(after, user))
    leave_user(user, ttl)
  end
end

-- Where kombu has the messages of a queue's priority step.
local function list_of(queue, step)
  return PREFIX .. queue .. (step == '0' and '' or SEPARATOR .. step)
end

-- A message under a delivery tag that no copy of it has.
local function retagged(id, raw, tag)
  local fresh = id .. '.' .. int(redis.call('HINCRBY', key('job', id), 'pushes', 1))
  local from, to = string.find(raw, '"' .. tag .. '"', 1, true)
  if from then raw = string.sub(raw, 1, from) .. fresh .. string.sub(raw, to) end
  return raw
end

-- Put the job's message into its queue again.
local function push(id)
  local job = key('job', id)
  local kept = redis.call('HMGET', job, 'message', 'tag', 'queue', 'priority')
  local raw, tag, queue, step = kept[1], kept[2], kept[3], kept[4]
  redis.call('ZREM', PREFIX .. 'delayed', id)
  wait_in(queue, id, step)
  if not raw or raw == '' then return false end
  redis.call('LPUSH', list_of(queue, step), retagged(id, raw, tag))
  return true
end

-- The same for a job that waits. Without a message it would wait for ever: nobody can run it, so it
-- fails, and says why. The reaper tells Celery. Returns whether it waits on.
local function push_or_fail(id, keep)
  if push(id) then return true end
  local message = "the job's Celery message is lost, so no node can be sent the job: submit it again"
  local attempt = tonumber(redis.call('HGET', key('job', id), 'attempt') or '0')
  emit(id, {'s' .. cjson.encode({type = 'failed', reason = 'internal', message = message})},
    attempt, '', '')
  conclude(id, 'queued', 'failed', 'internal', message, '', keep, 0)
  return false
end

-- Back to queued; its message comes at once, or after a delay by way of the reaper. `keep`: the
-- time-to-live (s) of a job that has ended.
local function queue_again(id, before, delay, keep)
  local job = key('job', id)
  move(id, before, 'queued')
  release(id)
  redis.call('HSET', job, 'owner', '', 'exp', 0)
  redis.call('ZREM', PREFIX .. 'leases', id)
  local h = redis.call('HMGET', job, 'expires', 'ran')
  if h[1] ~= '0' and not h[2] then redis.call('ZADD', PREFIX .. 'expiring', h[1], id) end
  if delay > 0 then
    wait_no_more(redis.call('HGET', job, 'queue'), id)
    redis.call('ZADD', PREFIX .. 'delayed', NOW + delay, id)
  else
    push_or_fail(id, keep)
  end
end

local function rest_of(first)
  local out = {}
  for i = first, #ARGV do out[#out + 1] = ARGV[i] end
  return out
end
