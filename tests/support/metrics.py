"""Reads a page of metrics as Prometheus does."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def scraped(port: int) -> str:
    """The page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def values(port: int) -> dict[str, float]:
    """Samples by name and labels, as Prometheus writes them."""
    found = {}
    for family in text_string_to_metric_families(scraped(port)):
        for one in family.samples:
            labels = ",".join(f'{key}="{text}"' for key, text in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found
