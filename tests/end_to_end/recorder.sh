#!/bin/sh
# recorder_test.py with these arguments, by $DSV4_PYTHON or python3. Without it, or without what the test needs, exit code
# 77, which is "skipped" to CTest.
python="${DSV4_PYTHON:-python3}"
command -v "$python" >/dev/null || { echo "skipped: there is no $python" && exit 77; }
exec "$python" -B "$(dirname "$0")/recorder_test.py" "$@"
