"""Writes the data of the CSV example: ``python3 houses.py /srv/cyxwiz/data/houses.csv``.

600 made-up houses. The price is what their size, rooms, age and distance say, with some noise.
"""

import csv
import random
import sys
from pathlib import Path

draw = random.Random(7)
with Path(sys.argv[1]).open("w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["area_m2", "rooms", "age_years", "distance_km", "price"])
    for _ in range(600):
        area = draw.uniform(30, 220)
        rooms = max(1, round(area / 28 + draw.gauss(0, 0.7)))
        age, distance = draw.randrange(0, 90), draw.uniform(0.5, 40)
        price = 160_000 + 2900 * area + 9000 * rooms - 1100 * age - 3500 * distance
        price += draw.gauss(0, 12_000)
        rows.writerow([round(area, 1), rooms, age, round(distance, 1), round(price)])
