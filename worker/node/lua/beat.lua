-- A node says that it lives. One script: whether the name is free, the record, its time-to-live and
-- the index are one decision, by Redis's own clock.
--
-- KEYS: node record (hash), index of nodes (sorted set)
-- ARGV: name, instance, node_id, boot_id, host, pid, ttl ms, record (JSON)
-- Returns {1}, or {0, host, pid, ms since its heartbeat} if another live node has the name.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[7])
local held = redis.call('HMGET', KEYS[1], 'instance', 'node_id', 'boot_id', 'beat', 'host', 'pid')
if held[1] and held[1] ~= ARGV[2] then
  -- This caller holds the agent lock of its state directory, so whoever had the same directory in
  -- the same boot is dead. A copy of the directory on another host has another boot.
  local predecessor = held[2] == ARGV[3] and held[3] == ARGV[4]
  local age = now - tonumber(held[4] or '0')
  if not predecessor and age < ttl then
    return {0, held[5], held[6], age}
  end
end
redis.call('HSET', KEYS[1], 'instance', ARGV[2], 'node_id', ARGV[3], 'boot_id', ARGV[4],
  'host', ARGV[5], 'pid', ARGV[6], 'beat', string.format('%.0f', now), 'record', ARGV[8])
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
-- nodes that never said goodbye are listed for a day
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', now - 86400000))
return {1}
