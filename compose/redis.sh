#!/bin/sh
# Starts Redis with one account for each role, made from the passwords in its environment.
#
# Each reaches this project's keys and channels alone, and none of the server's own commands. What a
# producer may do to other people's jobs is not Redis's to say: all roles write the same records.
set -eu
umask 077
mine='resetkeys ~cyxwiz:* resetchannels &cyxwiz:*'
# PSUBSCRIBE is allowed for patterns that stand here to the letter: Celery's events and control
mine="$mine &cyxwiz:/0.celeryev/* &cyxwiz:/0.celery.pidbox"
server='-@admin -@dangerous'
{
  echo "user default off"
  echo "user health on nopass -@all +ping"
  # info: the reaper looks whether Redis was restarted
  echo "user node on >$NODE_PASSWORD $mine +@all $server +info"
  echo "user producer on >$PRODUCER_PASSWORD $mine +@all $server -brpop -blpop -bzpopmin"
  # Flower reads its events and replies from lists of its own, and cancels by the records' scripts
  echo "user monitor on >$MONITOR_PASSWORD $mine +@all $server +info"
} >/run/cyxwiz/users.acl
unset NODE_PASSWORD PRODUCER_PASSWORD MONITOR_PASSWORD
exec redis-server /etc/cyxwiz/redis.conf
