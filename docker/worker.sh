#!/bin/bash
# A worker that drives a Ray cluster. Ray wants its driver on a node of the cluster, so this container joins it
# as a node without processors: trials run elsewhere. When either part ends, the container does, and starts anew.
set -euo pipefail

head=${ARCHSMITH_RAY_ADDRESS:?the address of the head of the Ray cluster, as ray-head:6379}

session=${RAY_TMPDIR:-/tmp}/ray
rm -rf "$session" # of this container's life before

ray start --address="$head" --num-cpus=0 --num-gpus=0 --disable-usage-stats --block &
node=$!
trap 'kill -TERM "$node" 2>/dev/null || true; exit 1' TERM INT
for _ in {1..120}; do
    [[ -S $session/session_latest/sockets/raylet ]] && break
    kill -0 "$node" # ends the script where Ray could not start
    sleep 0.5
done

archsmith worker &
worker=$!
trap 'kill -TERM "$worker" 2>/dev/null || true' TERM INT

status=0
wait -n "$node" "$worker" || status=$?
kill -TERM "$worker" 2>/dev/null || true
wait "$worker" || true # it gives its jobs back to the queue
kill -TERM "$node" 2>/dev/null || true
wait "$node" || true
exit "$status"
