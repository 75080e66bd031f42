#!/bin/bash
# The main job, shown on this one machine: three minions with three pods each, one service of 2014, and packets.
# Needs root. Makes network namespaces and takes them away again; the machine's own network stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

LAB=demo
REQUESTS=600
RATE=200 # requests a second while a pod is killed

say() { printf '\n\033[1m# %s\033[0m\n' "$*" | { [ -t 1 ] && cat || sed 's/\x1b\[[0-9]*m//g'; }; }
show() { # COMMAND...: print it as one would type it, then run it
  echo "\$ $*"
  "$@"
}
on() { svcnet lab exec --name "$LAB" "$@"; } # MEMBER -- COMMAND...
show_on() { # MEMBER SHELL_TEXT: the same inside a minion or a pod
  echo "$1\$ $2"
  on "$1" -- sh -c "$2"
}

[ "$(id -u)" = 0 ] || { echo "demo: needs root, because it makes network namespaces: sudo make demo" >&2; exit 5; }
./.ci/setup
export PATH="$PWD/.venv/bin:$PATH:/usr/sbin:/sbin"

say "A lab: 3 minions, 3 pods on each; every pod answers HTTP on 8080 with its name"
variables=$(svcnet lab up --name "$LAB" --minions 3 --pods 3)
scratch=$(mktemp -d)
finish() { # also after a failure or Ctrl-C
  local code=$?
  trap - EXIT INT TERM
  say "Lab down: nothing stays behind"
  svcnet lab down --name "$LAB" || code=1
  rm -rf "$scratch"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM
eval "$variables" # SVCNET_RECORDS: the records that all three minions share

say "The service of the 2014 walk-through, to the letter"
show svcnet create -f docs/examples/tomcat-service.json
show svcnet get services
show svcnet get endpoints

address=$(svcnet get services tomcat -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["spec"]["clusterIP"])')
say "Its virtual IP, $address, from a pod on minion 1 and from minion 2 itself"
show_on m1p1 "curl -sS --max-time 5 http://$address:8080/"
show_on m2 "curl -sS --max-time 5 http://$address:8080/"

say "By environment variables instead of a number"
show_on m3p1 "svcnet env tomcat"
# shellcheck disable=SC2016  # expanded inside the pod
show_on m3p1 'eval "$(svcnet env)"; curl -sS --max-time 5 "http://$TOMCAT_SERVICE_HOST:$TOMCAT_SERVICE_PORT/"'

say "60 connections from one pod: who answered how often"
on m1p1 -- curl -sS --max-time 30 -H 'Connection: close' "http://$address:8080/?[1-60]" | sort | uniq -c

say "A pod is killed (-9) while a client makes $RATE connections a second"
on m2p1 -- curl -s --rate "$RATE/s" --connect-timeout 3 -H 'Connection: close' -w '%{stderr}%{http_code}\n' \
  "http://$address:8080/?[1-$REQUESTS]" >"$scratch/names" 2>"$scratch/codes" &
client=$!
while [ "$(wc -l <"$scratch/codes")" -lt $((REQUESTS / 4)) ] && kill -0 "$client" 2>/dev/null; do sleep 0.05; done
show svcnet lab kill --name "$LAB" m1p2
wait "$client" || true # curl's own code is that of its last request; the lines say it all
total=$(wc -l <"$scratch/codes")
good=$(grep -c '^200$' "$scratch/codes" || true)
echo "$total requests, $((total - good)) failed"
show svcnet get endpoints
[ "$total" = "$REQUESTS" ] || { echo "demo: the client did not finish" >&2; exit 1; }
