#!/bin/sh
# systemd 252 as PID 1, our package and its two units.
. /vm/lib.sh
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin

say "kernel $(uname -r), $(systemctl --version | head -n 1)"

last_words() { journalctl --no-pager --lines=80 --unit=mainstay.service --unit=mainstay-services.service; }
main_pid() { systemctl show --property=MainPID --value mainstay.service; }
active() { [ "$(systemctl is-active "$1")" = active ] || { systemctl status --no-pager "$1" | tail -n 20; return 1; }; }
services_group=/sys/fs/cgroup/system.slice/mainstay-services.service

installs() {
    dpkg --force-unsafe-io -i /guest/mainstay.deb || return 1
    getent group mainstay && getent passwd mainstay-proxy || return 1
    [ "$(systemctl is-enabled mainstay.service)" = enabled ] || return 1
    active mainstay.service && active mainstay-services.service
}

unit_files_are_clean() {
    verify_output=$(systemd-analyze --man=no verify /lib/systemd/system/mainstay.service /lib/systemd/system/mainstay-services.service 2>&1)
    echo "$verify_output"
    ! echo "$verify_output" | grep -q mainstay
}

drop_ins_are_clean() {
    for drop_in in hardening slice reserve; do
        mkdir -p /etc/systemd/system/mainstay.service.d
        cp /usr/share/doc/mainstay/drop-ins/$drop_in.conf /etc/systemd/system/mainstay.service.d/
    done
    unit_files_are_clean
    drop_status=$?
    rm -r /etc/systemd/system/mainstay.service.d
    return $drop_status
}

loads_its_services() {
    cp /guest/mainstay.ron $config || return 1
    systemctl reload mainstay.service || return 1
    within 60 all_well && five_services_once_each
}

groups_lie_in_the_second_unit() {
    for groups_pid in $(census | cut -d' ' -f2); do
        case $(group_of "$groups_pid") in
            "$services_group"/*) ;;
            *) echo "$groups_pid is in $(group_of "$groups_pid")"; return 1 ;;
        esac
    done
}

# What the unit gives the agent and no service may inherit.
services_inherit_nothing() {
    inherit_pid=$(instances worker)
    tr '\0' '\n' <"/proc/$inherit_pid/environ" >/tmp/environ
    ! grep -E '^(NOTIFY_SOCKET=/run/systemd|WATCHDOG_|INVOCATION_ID|JOURNAL_STREAM|RUNTIME_DIRECTORY|STATE_DIRECTORY|LOGS_DIRECTORY)' /tmp/environ ||
        return 1
    [ "$(cat "/proc/$inherit_pid/oom_score_adj")" = 0 ] || { echo "oom_score_adj $(cat "/proc/$inherit_pid/oom_score_adj")"; return 1; }
    [ "$(cat "/proc/$(agent_pid)/oom_score_adj")" = -900 ] || { echo "the agent's oom_score_adj is not -900"; return 1; }
    grep '^SigBlk:.*[1-9a-f]' "/proc/$inherit_pid/status" && return 1
    return 0
}

same_after() {
    census >/tmp/before
    same_agent=$(agent_pid)
    "$@" || return 1
    within 40 all_well || return 1
    census >/tmp/after
    cmp -s /tmp/before /tmp/after || { echo "before:" $(cat /tmp/before) "after:" $(cat /tmp/after); return 1; }
    [ "$(main_pid)" = "$(agent_pid)" ] || { echo "main process $(main_pid), agent $(agent_pid)"; return 1; }
    active mainstay.service && active mainstay-services.service
}

upgrade_package() {
    dpkg --force-unsafe-io -i /guest/mainstay-next.deb || return 1
    dpkg-query --show --showformat='${Version}\n' mainstay | grep -q '^0.0.2' || return 1
    [ "$(agent_pid)" = "$same_agent" ] || { echo "the agent was restarted: $same_agent, $(agent_pid)"; return 1; }
    [ "$(cat $config)" = "$(cat /guest/mainstay.ron)" ] || { echo "the configuration was overwritten"; return 1; }
}

# What postinst tells an operator to do: the new binary, the old services.
change_to_the_new_binary() {
    systemctl kill --signal=QUIT --kill-who=main mainstay.service || return 1
    within 40 another_agent "$same_agent" || return 1
    case $(readlink "/proc/$(agent_pid)/exe") in
        /usr/bin/mainstay) ;;
        *) readlink "/proc/$(agent_pid)/exe"; return 1 ;;
    esac
}

# systemd's watchdog kills an agent whose loop stands still; the next one adopts.
watchdog_ends_a_stopped_agent() {
    kill -STOP "$same_agent"
    within 90 another_agent "$same_agent"
}

restart_stops_and_starts() {
    census >/tmp/before
    systemctl restart mainstay.service || return 1
    within 60 all_well || return 1
    five_services_once_each || return 1
    while read -r restart_name restart_pid; do
        [ ! -e "/proc/$restart_pid/cgroup" ] || { echo "$restart_name $restart_pid is still there"; return 1; }
    done </tmp/before
    active mainstay-services.service
}

# No process in either unit but the one that holds the second one's group.
nothing_runs() {
    none_left || return 1
    nothing_left=$(find "$services_group" /sys/fs/cgroup/system.slice/mainstay.service -name cgroup.procs ! -path '*/hold/*' \
        -exec cat {} + 2>/dev/null)
    [ -z "$nothing_left" ] || { echo "processes left: $nothing_left"; return 1; }
}

stop_ends_everything() {
    systemctl stop mainstay.service || return 1
    [ "$(systemctl is-active mainstay.service)" = inactive ] || { systemctl status --no-pager mainstay.service | tail -n 20; return 1; }
    nothing_runs
}

starts_again() {
    systemctl start mainstay.service || return 1
    within 60 all_well && five_services_once_each && groups_lie_in_the_second_unit
}

# The net below: with the agent gone for good, the second unit still ends its services.
second_unit_ends_what_is_left() {
    systemctl mask --runtime mainstay.service
    kill -9 "$(agent_pid)"
    systemctl stop mainstay-services.service
    second_status=0
    within 30 nothing_of_services || second_status=1
    systemctl unmask --runtime mainstay.service
    systemctl reset-failed mainstay.service
    return $second_status
}
nothing_of_services() { none_left; }

removal_leaves_nothing_running() {
    systemctl start mainstay.service || return 1
    within 60 all_well || return 1
    dpkg --purge mainstay || return 1
    nothing_runs || return 1
    for removal_path in /run/mainstay /var/lib/mainstay /var/log/mainstay /etc/mainstay/mainstay.ron /usr/bin/mainstay; do
        [ ! -e $removal_path ] || { echo "$removal_path is still there"; return 1; }
    done
}

must "the package installs, enables and starts" installs
check "systemd finds nothing wrong with the units" unit_files_are_clean
check "nor with the drop-ins" drop_ins_are_clean
must "reload starts the configured services" loads_its_services
check "their groups lie in the second unit" groups_lie_in_the_second_unit
check "controllers can be enabled for the groups" enable_controllers "$services_group"
check "they inherit nothing of the unit" services_inherit_nothing
check "20 kills of the agent: same processes, none twice" kill_agent 20
check "daemon-reload changes nothing" same_after systemctl daemon-reload
check "daemon-reexec changes nothing" same_after systemctl daemon-reexec
check "limits outlive all that" limit_is memory.max 67108864
check "no line of the log is lost" log_is_complete
check "a package upgrade keeps agent and services" same_after upgrade_package
check "QUIT changes to the new binary under the same services" same_after change_to_the_new_binary
check "the watchdog ends a stopped agent, not its services" same_after watchdog_ends_a_stopped_agent
check "memory.max kills one service, which comes back" memory_limit_kills_one_service
check "restart stops and starts everything, nothing twice" restart_stops_and_starts
check "stop ends everything" stop_ends_everything
check "start begins again" starts_again
check "the second unit ends what an agent left" second_unit_ends_what_is_left
check "removal leaves nothing running and purge no file" removal_leaves_nothing_running
finish
