#!/bin/bash
# The whole walk-through of 2014 on this one machine: three minions, a replication controller, a service; reached by
# address, by variable and by name, through each of three data paths. Needs root. Makes network namespaces and takes
# them away again; the machine's own network stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

LAB=demo
REQUESTS=400
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
until_shown() { # TEXT COMMAND...: wait (at most 60 s) until a command prints TEXT
  local end=$((SECONDS + 60)) text=$1
  shift
  until "$@" 2>/dev/null | grep -q "$text"; do
    [ $SECONDS -lt $end ] || { echo "demo: '$*' never showed $text" >&2; exit 1; }
    sleep 0.1
  done
}

[ "$(id -u)" = 0 ] || { echo "demo: needs root, because it makes network namespaces: sudo make demo" >&2; exit 5; }
./.ci/setup
export PATH="$PWD/.venv/bin:$PATH:/usr/sbin:/sbin"

say "A lab: three minions, each with its own svcnet-proxy"
variables=$(svcnet lab up --name "$LAB" --minions 3 --pods 0)
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

say "The records of 2014, to the letter: a replication controller with two pods, then its service"
show svcnet create -f docs/examples/tomcat-pod.json
until_shown 'tomcat.*Running.*' svcnet get pods
show svcnet get pods
show svcnet create -f docs/examples/tomcat-service.json
show svcnet get services
address=$(svcnet get services tomcat -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["spec"]["clusterIP"])')
for minion in m1 m2 m3; do # a name leads nowhere before the kernel does
  until_shown "$address" on "$minion" -- getent ahostsv4 tomcat.svc
done

for mode in nftables iptables userspace; do
  say "Data path: $mode. The same service by address, by variable, by name"
  [ "$mode" = nftables ] || show svcnet lab mode --name "$LAB" "$mode"
  show_on m1 "curl -sS --max-time 5 http://$address:8080/"
  # shellcheck disable=SC2016  # expanded on the minion
  show_on m2 'eval "$(svcnet env)"; curl -sS --max-time 5 "http://$TOMCAT_SERVICE_HOST:$TOMCAT_SERVICE_PORT/"'
  show_on m3 "curl -sS --max-time 5 http://tomcat.svc:8080/"
done
show svcnet lab mode --name "$LAB" nftables

say "A pod is killed (-9) while a client on m3 makes $RATE connections a second; the controller makes another"
victim=$(svcnet get pods -o name | head -n 1)
victim=${victim#*/}
: >"$scratch/codes"
on m3 -- curl -s --rate "$RATE/s" --connect-timeout 3 -H 'Connection: close' -w '%{stderr}%{http_code}\n' \
  "http://$address:8080/?[1-$REQUESTS]" >"$scratch/names" 2>"$scratch/codes" &
client=$!
while [ "$(wc -l <"$scratch/codes")" -lt $((REQUESTS / 4)) ] && kill -0 "$client" 2>/dev/null; do sleep 0.05; done
show svcnet lab kill --name "$LAB" "$victim"
wait "$client" || true # curl's own code is that of its last request; the lines say it all
total=$(wc -l <"$scratch/codes")
good=$(grep -c '^200$' "$scratch/codes" || true)
echo "$total requests, $((total - good)) failed"
[ "$total" = "$REQUESTS" ] || { echo "demo: the client did not finish" >&2; exit 1; }
until_shown '2/2' svcnet get rc
show svcnet get pods
show svcnet get endpoints

say "What each path costs: a short run of bench/run.py (the full one: bench/run.py)"
.venv/bin/python bench/run.py --quick --seconds 0.15 --rounds 2
