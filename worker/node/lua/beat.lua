-- A node says that it lives. One script: whether the name is free, the record, its time-to-live and
-- the indexes are one decision, by Redis's own clock.
--
-- KEYS: node record (hash), index of nodes (sorted set)
-- ARGV: name, instance, node_id, boot_id, host, pid, ttl ms, record (JSON), key prefix,
--   what it offers (JSON): queues that its slots read, and by kind the slots that take jobs
-- Returns {1, what is said of it in `cordoned` or ''}, or {0, host, pid, ms since its heartbeat} if
-- another live node has the name.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local name, ttl, prefix = ARGV[1], tonumber(ARGV[7]), ARGV[9]
local LISTED = 86400000   -- ms that a node that never said goodbye is listed
local held = redis.call('HMGET', KEYS[1], 'instance', 'node_id', 'boot_id', 'beat', 'host', 'pid',
  'offer')
if held[1] and held[1] ~= ARGV[2] then
  -- This caller holds the agent lock of its state directory, so whoever had the same directory in
  -- the same boot is dead. A copy of the directory on another host has another boot.
  local predecessor = held[2] == ARGV[3] and held[3] == ARGV[4]
  local age = now - tonumber(held[4] or '0')
  if not predecessor and age < ttl then
    return {0, held[5], held[6], age}
  end
end
local offer = cjson.decode(ARGV[10])
-- The indexes that the node is in: what it offers now, and what it offered before and does not now.
local function each(said, act)
  for _, queue in ipairs(said.queues or {}) do act(prefix .. 'serving:' .. queue, name) end
  for kind, slots in pairs(said.slots or {}) do
    for _, slot in ipairs(slots) do act(prefix .. 'slots:' .. kind, name .. '/' .. slot) end
  end
end
if held[7] and held[7] ~= ARGV[10] then
  each(cjson.decode(held[7]), function(index, member) redis.call('ZREM', index, member) end)
end
local until_ms = string.format('%.0f', now + ttl)
each(offer, function(index, member)
  redis.call('ZADD', index, until_ms, member)
  if held[7] ~= ARGV[10] then   -- rarely: those that died in it go
    redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('(%.0f', now - LISTED))
  end
  redis.call('PEXPIRE', index, LISTED)
end)
redis.call('HSET', KEYS[1], 'instance', ARGV[2], 'node_id', ARGV[3], 'boot_id', ARGV[4],
  'host', ARGV[5], 'pid', ARGV[6], 'beat', string.format('%.0f', now), 'record', ARGV[8],
  'offer', ARGV[10])
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('PEXPIRE', prefix .. 'counts:' .. name, LISTED)
redis.call('ZADD', KEYS[2], string.format('%.0f', now), name)
redis.call('ZADD', prefix .. 'node-names', 0, name)
redis.call('PEXPIRE', prefix .. 'node-names', LISTED)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf',
    string.format('(%.0f', now - LISTED), 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], gone)
  redis.call('ZREM', prefix .. 'node-names', gone)
end
return {1, redis.call('HGET', prefix .. 'cordoned', name) or ''}
