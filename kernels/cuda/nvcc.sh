#!/bin/sh
# nvcc.sh LOG COMMAND...: runs the compiler; its words go to LOG, and to the reader if it fails or
# warns (ptxas -v alone is no news).
log=$1
shift
"$@" >"$log" 2>&1
status=$?
if [ $status != 0 ]; then
    cat "$log" >&2
else
    grep -v '^ptxas info\|bytes stack frame\|^$' "$log" >&2
fi
exit $status
