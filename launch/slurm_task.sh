#!/usr/bin/env bash
# One task of launch/slurm.sbatch: the command, its exit code below 75 raised by 100. srun exits with the highest code
# of its tasks, and a task that fails makes the others exit with 75 ("another process is gone, run again"): 1 would be
# lost among them.
# This shell outlives a SIGTERM, which the command gets too. A handler, not '': the command would inherit that.
trap ':' TERM
code=0
"$@" || code=$?
if (( code > 0 && code < 75 )); then
  code=$(( code + 100 ))
fi
exit "$code"
