-- Prepended to what only the holder of a lease may do: 3 owner, 4 fence.
local id = ARGV[2]
local job = key('job', id)
local held = redis.call('HMGET', job, 'owner', 'fence', 'state', 'attempt', 'node', 'slot', 'cancel')
-- none, or one of before the claim, as after a failover that lost the claim
if not held[2] or tonumber(held[2]) < tonumber(ARGV[4]) then return 'GONE' end
-- finish and requeue may be said twice, when the answer to the first was lost
local by = ARGV[3] .. ':' .. ARGV[4]
if redis.call('HGET', job, 'ended_by') == by then return 'AGAIN ' .. held[3] end
if held[1] ~= ARGV[3] or held[2] ~= ARGV[4] or not RUNS[held[3]] then return 'LOST' end
local state, attempt, node, slot = held[3], tonumber(held[4]), held[5], held[6]

-- It has begun to run, so many ms ago.
local function runs(ago)
  redis.call('HSET', job, 'ran', 1)
  if state ~= 'starting' then return end
  redis.call('HSET', job, 'running', NOW - ago)
  local claimed = tonumber(redis.call('HGET', job, 'started'))
  observe(node, 'start', math.max(0, NOW - ago - claimed))
end

-- Sets fields of the record: ARGV[first] says how many arguments follow, then field, value, …
-- Returns where they end.
local function show(first)
  local last = first + tonumber(ARGV[first])
  if last > first then redis.call('HSET', job, unpack(ARGV, first + 1, last)) end
  return last
end

-- Counts how an attempt ended, and how long it ran.
local function ended(id, node, how)
  local running = redis.call('HGET', key('job', id), 'running')
  count(node, how, 1)
  if running and running ~= '0' then observe(node, 'run', math.max(0, NOW - tonumber(running))) end
end
