-- 3 Celery's key, 4 value, 5 time-to-live (s) or 0, 6: 1 if this is all that Celery must be told of a
-- job's end
return tell(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
