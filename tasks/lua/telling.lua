-- Prepended to what stores Celery's result of a task, and publishes it: unless it has succeeded before,
-- as a duplicate must not take that back. Nor may a supervisor that stood still, and has lost the job,
-- say that it gets on when it is over: nobody would hear of its end again. `name`: Celery's key, `ttl`
-- (s) or '0'; `all` is '1' if this is all that Celery must be told of a job's end.
local READY = {SUCCESS = true, FAILURE = true, REVOKED = true}
local function status(text)
  local read, meta = pcall(cjson.decode, text or '')
  return read and type(meta) == 'table' and meta.status or ''
end

local function tell(id, name, value, ttl, all)
  local was = status(redis.call('GET', name))
  if was == 'SUCCESS' then return 0 end
  local over = READY[was] or TERMINAL[redis.pcall('HGET', key('job', id), 'state')]
  if over and not READY[status(value)] then return 0 end
  if ttl == '0' then
    redis.call('SET', name, value)
  else
    redis.call('SETEX', name, ttl, value)
  end
  redis.call('PUBLISH', name, value)
  if all == '1' and redis.call('EXISTS', key('job', id)) == 1 then
    redis.call('ZREM', PREFIX .. 'untold', id)
    redis.call('HSET', key('job', id), 'result_stored', 1)
  end
  return 1
end
