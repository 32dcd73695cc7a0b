#!/bin/sh
# A run killed by SIGKILL every 20 seconds, and gone on with until it is done, has the weights of an undisturbed one.
#
#     sh examples/kill_and_resume.sh FOLDER_OF_CLASSES [flags of rightfit train]
#     SECONDS_TO_LIVE=30 sh examples/kill_and_resume.sh build/elpv --image-size 64 --epochs 3
set -eu
data=$1
shift
live=${SECONDS_TO_LIVE:-20}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rightfit train "$data" "$@" --precision float32 --output "$work/undisturbed"

timeout -s KILL "$live" rightfit train "$data" "$@" --precision float32 --checkpoint-every 2s --output "$work/killed" || true
until timeout -s KILL "$live" rightfit resume "$work/killed"; do
    status=$?
    [ "$status" -eq 137 ] || exit "$status" # anything but the kill is an error of its own
    echo "killed after $live s; going on" >&2
done

sum() { sha256sum <"$1/weights.safetensors" | cut -d ' ' -f 1; }
echo "undisturbed $(sum "$work/undisturbed")"
echo "killed      $(sum "$work/killed")"
[ "$(sum "$work/undisturbed")" = "$(sum "$work/killed")" ]
