"""``python -m worker.cli``: the command ``cyxwiz`` where no script is installed."""

from worker.cli import main

main()
