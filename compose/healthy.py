"""Says by its exit code whether the node in this container takes jobs: its metrics say so.

A node that was cordoned, or that drains, is well too.
"""

import os
import re
import sys
import urllib.request

port = os.environ.get("CYXWIZ_METRICS__PORT", "9781")
with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=4) as answer:  # loopback
    page = answer.read().decode()
redis = re.search(r"^cyxwiz_redis_up 1", page, re.MULTILINE)
cordoned = re.search(r"^cyxwiz_cordoned 1", page, re.MULTILINE)
ready = re.search(r'^cyxwiz_slots\{[^}]*state="(ready|draining)"[^}]*\} [1-9]', page, re.MULTILINE)
sys.exit(0 if redis and (ready or cordoned) else 1)
