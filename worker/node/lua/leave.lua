-- A node says goodbye. Whoever has taken its name meanwhile keeps it.
--
-- KEYS: node record (hash), index of nodes (sorted set)
-- ARGV: name, instance, key prefix
local held = redis.call('HMGET', KEYS[1], 'instance', 'offer')
local name, prefix = ARGV[1], ARGV[3]
if held[1] and held[1] ~= ARGV[2] then
  return 0
end
if held[2] then
  local offer = cjson.decode(held[2])
  for _, queue in ipairs(offer.queues or {}) do
    redis.call('ZREM', prefix .. 'serving:' .. queue, name)
  end
  for kind, slots in pairs(offer.slots or {}) do
    for _, slot in ipairs(slots) do
      redis.call('ZREM', prefix .. 'slots:' .. kind, name .. '/' .. slot)
    end
  end
end
redis.call('DEL', KEYS[1], prefix .. 'counts:' .. name)
redis.call('ZREM', KEYS[2], name)
redis.call('ZREM', prefix .. 'node-names', name)
return 1
