cd "$CYXWIZ_OUTPUT" || exit
exec python3 "$CYXWIZ_CODE/main.py" "$@"
