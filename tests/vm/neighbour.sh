# What a victim costs its neighbour. The neighbour is services/runner: sourced by the tests of guests in which it runs.

uptime_now() { cut -d' ' -f1 /proc/uptime; }

# What it has got done: the CPU time that its group was given, as what an emulated CPU gets done in its time is the host's affair; sectors, of a
# disk that nobody else reads; else rounds.
progress() {
    case $(cat /tmp/work) in
        cpu) sed -n 's/^usage_usec //p' "$(group_of "$(cat /tmp/runner.pid)")/cpu.stat" ;;
        disk) awk '{ print $3 }' "/sys/block/$(awk '$2 == "/mnt/data" { sub("/dev/", "", $1); print $1 }' /proc/mounts)/stat" ;;
        *) cat /tmp/runner ;;
    esac
}

# That a second, over so many seconds. The clock of an emulated guest is no measure either, hence always one beside another.
rate() {
    rate_before="$(progress) $(uptime_now)"
    sleep "$1"
    echo "$rate_before $(progress) $(uptime_now)" | awk '{ printf "%.3f\n", ($3 - $1) / ($4 - $2) }'
}

# What it gets done beside a victim, in percent of what it gets done alone: the median of so many pairs. SWITCH exists while the victim is at work.
#   beside PAIRS WORK SWITCH
beside() {
    echo "$2" >/tmp/work
    rm -f "$3" /tmp/pairs
    sleep 1
    beside_left=$1
    while [ "$beside_left" -gt 0 ]; do
        beside_left=$((beside_left - 1))
        beside_alone=$(rate 1.5)
        touch "$3"
        sleep 0.7
        beside_with=$(rate 1.5)
        rm -f "$3"
        # Until what it has begun is done.
        sleep 1.2
        echo "$beside_with $beside_alone" | awk '{ printf "%.1f\n", ($2 > 0) ? 100 * $1 / $2 : 0 }' >>/tmp/pairs
    done
    rm -f /tmp/work
    sort -n /tmp/pairs | awk '{ value[NR] = $1 } END { print NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'
}

# The same of a victim that is limited: a neighbour is to keep more than 90 %. Emulated, on a host that is busy itself, only less than 80 % is held
# against anybody, and only when it is so twice.
limited_beside() {
    limited_kept=$(beside "$@")
    keeps "$limited_kept" >/dev/null || limited_kept="$(beside "$@")"
    echo "$limited_kept"
}
keeps() { awk -v kept="$1" 'BEGIN { exit !(kept >= 80) }' || { echo "its neighbour keeps $1 %: $(cat /tmp/pairs | tr '\n' ' ')"; return 1; }; }
