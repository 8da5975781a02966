#!/bin/sh
# What the same victims cost the same neighbour under mainstay and under systemd, with the same limits, one after the other in one guest. This is
# a benchmark: it is not among the guests that run by themselves.
. /vm/lib.sh
. /vm/neighbour.sh
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin

say "kernel $(uname -r), $(systemctl --version | head -n 1)"
last_words() { journalctl --no-pager --lines=60; }

begins() {
    dpkg --force-unsafe-io -i /guest/mainstay.deb || return 1
    cp /guest/mainstay.ron $config || return 1
    systemctl reload mainstay.service || return 1
    within 60 all_well || return 1
    for victim in spinner hog flood; do mainstay stop $victim || return 1; done
    systemd-run --quiet --unit=neighbour /bin/sh /opt/svc/runner || return 1
    within 10 test -s /tmp/runner
}

# victim UNIT PROPERTY...: under systemd.
victim() {
    victim_unit=$1
    shift
    systemd-run --quiet --unit="$victim_unit" "$@"
    sleep 2
}
gone() {
    systemctl stop "$1" 2>/dev/null
    systemctl reset-failed "$1" 2>/dev/null
    sleep 1
}
# of_mainstay PAIRS WORK SWITCH SERVICE, of_systemd the same and PROPERTY..
of_mainstay() {
    mainstay start "$4" >/dev/null || return 1
    sleep 1
    beside "$1" "$2" "$3"
    mainstay stop "$4" >/dev/null
}
of_systemd() {
    systemd_pairs=$1 systemd_work=$2 systemd_switch=$3 systemd_service=$4
    shift 4
    victim "v-$systemd_service" "$@" /bin/sh "/opt/svc/$systemd_service"
    beside "$systemd_pairs" "$systemd_work" "$systemd_switch"
    gone "v-$systemd_service"
}

beside_200_percent() {
    cpu_none=$(of_systemd 3 cpu /tmp/spin spinner)
    cpu_mainstay=$(of_mainstay 9 cpu /tmp/spin spinner)
    cpu_systemd=$(of_systemd 9 cpu /tmp/spin spinner -p CPUQuota=10%)
    say "a neighbour keeps, in percent of its throughput beside 200 % CPU: no limit $cpu_none, mainstay $cpu_mainstay, systemd $cpu_systemd"
    keeps "$cpu_mainstay"
}
# That it eats costs CPU time as well, which is not what is measured here.
beside_a_memory_hog() {
    memory_mainstay=$(of_mainstay 9 memory /tmp/hog hog)
    memory_systemd=$(of_systemd 9 memory /tmp/hog hog -p CPUQuota=20% -p MemoryMax=64M -p MemorySwapMax=0 -p OOMPolicy=kill -p Restart=always \
        -p RestartSec=100ms -p StartLimitIntervalSec=0)
    say "beside a memory hog: mainstay $memory_mainstay, systemd $memory_systemd"
    keeps "$memory_mainstay"
}
beside_writers() {
    disk_none=$(of_systemd 3 disk /tmp/flood flood)
    disk_mainstay=$(of_mainstay 9 disk /tmp/flood flood)
    disk_systemd=$(of_systemd 9 disk /tmp/flood flood -p "IOWriteBandwidthMax=/dev/vdb 512K")
    say "beside writers that saturate the disk: no limit $disk_none, mainstay $disk_mainstay, systemd $disk_systemd"
    keeps "$disk_mainstay"
}

must "mainstay and the neighbour are there" begins
check "beside 200 % CPU" beside_200_percent
check "beside a memory hog" beside_a_memory_hog
check "beside writers that saturate the disk" beside_writers
finish
