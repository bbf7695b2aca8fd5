#!/usr/bin/env bash
# One task of launch/slurm.sbatch: the command, its exit code below 75 raised by 100. srun exits with the highest code
# of its tasks, and a task that fails makes the others exit with 75 ("another process is gone, run again"): 1 would be
# lost among them. 134 (SIGABRT) becomes 75: JAX ends a process so when another one fell silent.
# This shell outlives a SIGTERM, which the command gets too. A handler, not '': the command would inherit that.
trap ':' TERM
code=0
"$@" || code=$?
if (( code > 0 && code < 75 )); then
  code=$(( code + 100 ))
fi
if (( code == 134 )); then
  code=75
fi
exit "$code"
