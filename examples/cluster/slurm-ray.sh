#!/bin/bash
# A Ray cluster of four nodes with four GPUs each for one batch; a node that is lost costs no picture.
# Submit with `sbatch slurm-ray.sh`; the same again makes what is missing.
#SBATCH --job-name=nst-fast
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=16
#SBATCH --mem=96G
#SBATCH --time=04:00:00
#SBATCH --no-kill
set -euo pipefail

port=6379
head=$(hostname)

ray start --head --port="$port" --include-dashboard=false --disable-usage-stats
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head" \
        --no-kill --kill-on-bad-exit=0 ray start --address="$head:$port" --disable-usage-stats --block &
fi
trap 'ray stop' EXIT

nst-fast batch photos --style painting.jpg --output painted --on ray --address "$head:$port"
