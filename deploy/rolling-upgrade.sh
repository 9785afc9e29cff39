#!/bin/sh
# Upgrades, or restarts for whatever reason, the nodes of a cluster one after the other, while they serve: drains a node,
# has it restarted, waits until its new process serves what the old one did, and goes on to the next. Never has two nodes
# down. Stops at the first failure, and leaves the node where it stands.
set -eu

usage() {
    cat <<'END'
rolling-upgrade.sh --restart COMMAND [OPTION]... [NODE]...

Upgrades the nodes named, or all, one after the other.

  --restart COMMAND   restarts a node and returns; a shell command in which {} is the node's name, for example
                      'ssh {} sudo systemctl restart usher-node'
  --deadline TIME     what a node may take to be drained; sessions that run then are ended, and resumed elsewhere [60s]
  --wait SECONDS      what a node may take until it serves again [120]
  --master HOST:PORT  the master [localhost]
  --cert FILE         your certificate from `usher certs issue admin NAME`
  --key FILE          its key
  --ca FILE           the cluster's authority

USHER names the program [usher]. USHER_MASTER, USHER_CERT, USHER_KEY and USHER_CA do as the options.
END
}

say() { echo "rolling-upgrade: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

usher=${USHER:-usher}
restart='' deadline=60s wait=120

while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --restart | --deadline | --wait | --master | --cert | --key | --ca)
        [ $# -ge 2 ] || fail "$1 needs a value; see --help"
        case $1 in
        --restart) restart=$2 ;;
        --deadline) deadline=$2 ;;
        --wait) wait=$2 ;;
        --master) export USHER_MASTER="$2" ;;
        --cert) export USHER_CERT="$2" ;;
        --key) export USHER_KEY="$2" ;;
        --ca) export USHER_CA="$2" ;;
        esac
        shift 2
        ;;
    --)
        shift
        break
        ;;
    -*) fail "unknown option $1; see --help" ;;
    *) break ;;
    esac
done

[ -n "$restart" ] || fail "say how a node is restarted with --restart 'COMMAND {}'; see --help"

# Lines of "NAME STATE BOOT TITLES" of all nodes. The JSON is one key a line, in the order of the alphabet.
roster() {
    nodes=$("$usher" nodes --json) || return 1
    printf '%s\n' "$nodes" | awk -F'"' '
        $2 == "boot_id" { boot = $4 }
        $2 == "name"    { name = $4 }
        $2 == "state"   { state = $4 }
        $2 == "titles"  { sub(/^: */, "", $3); sub(/,.*/, "", $3); print name, state, boot, $3 }'
}

# A field of a node: 2 its state, 3 its boot id, 4 its number of titles.
field() { printf '%s\n' "$roster" | awk -v node="$1" -v field="$2" '$1 == node { print $field }'; }

look() { roster=$(roster) || fail "the master does not answer; nothing more is done"; }

look
if [ $# -eq 0 ]; then
    # Names have no blanks.
    # shellcheck disable=SC2046
    set -- $(printf '%s\n' "$roster" | awk '{ print $1 }')
fi
[ $# -gt 0 ] || fail "the master knows no node"
for node in "$@"; do
    [ -n "$(field "$node" 2)" ] || fail "the master knows no node $node; nothing was done"
done

for node in "$@"; do
    # Every node of the cluster, not only those that are to be upgraded. One that was taken away for good is forgotten by
    # the master after ten minutes.
    look
    down=$(printf '%s\n' "$roster" | awk '$2 != "serving" { printf " %s (%s)", $1, $2 }')
    [ -z "$down" ] || fail "not all nodes serve:$down; $node and those after it were left alone"
    [ -n "$(field "$node" 2)" ] || fail "the master knows no node $node any more; those after it were left alone"
    boot=$(field "$node" 3)
    titles=$(field "$node" 4)

    say "$node: draining"
    "$usher" drain "$node" --deadline "$deadline" ||
        fail "$node was not drained; it was not restarted. \`usher undrain $node\` lets it take sessions again"

    say "$node: restarting"
    command=$(printf '%s\n' "$restart" | sed "s/{}/$node/g")
    sh -c "$command" ||
        fail "$node was not restarted: \`$command\` failed. If its old process runs, \`usher undrain $node\` lets it serve"

    left=$wait
    while :; do
        look
        if [ "$(field "$node" 2)" = serving ] && [ "$(field "$node" 3)" != "$boot" ] &&
            [ "$(field "$node" 4)" -ge "$titles" ]; then
            break
        fi
        [ "$left" -gt 0 ] || fail "$node does not serve its $titles titles again after $wait s; look at its log"
        left=$((left - 1))
        sleep 1
    done
    # A new process serves by itself; one that was started before the old one had ended may have been told to drain.
    "$usher" undrain "$node" || fail "$node serves, but was not undrained"
    say "$node: serves again"
done
say "all done: $*"
