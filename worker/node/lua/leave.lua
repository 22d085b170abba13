-- A node says goodbye. Whoever has taken its name meanwhile keeps it.
--
-- KEYS: node record (hash), index of nodes (sorted set)
-- ARGV: name, instance
local instance = redis.call('HGET', KEYS[1], 'instance')
if instance and instance ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
