#!/bin/bash
# Eight jobs of one GPU each, without Ray: each makes its part of the pictures, in one folder on the shared disk.
# Submit with `sbatch slurm-array.sh`; the same again makes what is missing.
#SBATCH --job-name=nst-fast
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=24G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

exec nst-fast batch photos --style painting.jpg --output painted \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
