#!/bin/sh
# python3 with these arguments: the first that has numpy. Where none has, exit code 77, which is "skipped" to CTest.
for python in ${DSV4_PYTHON:-} python3 /usr/bin/python3; do
  "$python" -c 'import numpy' 2>/dev/null && exec "$python" -B "$@"
done
echo "skipped: there is no python3 with numpy"
exit 77
