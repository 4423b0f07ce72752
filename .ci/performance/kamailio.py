"""Configurations of Kamailio: the sidecar's job, a part of it, and no more than forwarding."""

COMMON = """\
#!KAMAILIO
debug=1
log_stderror=yes
children=2
auto_aliases=no
dns=no
rev_dns=no
use_dns_cache=off
server_signature=no
listen={transport}:{device}
{tcp}
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "maxfwd.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "xlog.so"
modparam("tm", "fr_timer", 30000)
modparam("tm", "fr_inv_timer", 180000)
"""

TCP = """\
tcp_children=2
tcp_connection_lifetime=3600
tcp_max_connections=64
tcp_accept_no_cl=no
"""

# Calls of a dialog, and the outcome on every final response; the variable parts are what the other job leaves out.
STATEFUL = """\
request_route {{
    if (!mf_process_maxfwd_header("70")) {{
        sl_send_reply("483", "Too Many Hops");
        exit;
    }}
    if (has_totag()) {{
        if (loose_route()) {{
            t_relay();
            exit;
        }}
        if (is_method("ACK")) {{
            if (t_check_trans()) t_relay();
            exit;
        }}
        sl_send_reply("404", "Not Here");
        exit;
    }}
    if (is_method("CANCEL")) {{
        if (t_check_trans()) t_relay();
        exit;
    }}
    t_check_trans();
    if (!is_method("INVITE")) {{
        sl_send_reply("405", "Method Not Allowed");
        exit;
    }}
    record_route();
    {on_invite}
    $du = "sip:{server}{parameter}";
    if (!t_relay()) sl_reply_error();
}}
"""

FULL_MODULES = """\
loadmodule "dialog.so"
loadmodule "statistics.so"
modparam("dialog", "dlg_match_mode", 1)
modparam("dialog", "hash_size", 16384)
modparam("dialog", "default_timeout", 14400)
modparam("statistics", "variable", "calls_started")
modparam("statistics", "variable", "outcome_normal")
modparam("statistics", "variable", "outcome_number_busy")
modparam("statistics", "variable", "outcome_no_answer")
modparam("statistics", "variable", "outcome_call_failed")
"""

FULL_ROUTES = """\
# For all responses, also those that are sent again when the transaction is gone.
reply_route {
    if (is_method("INVITE")) {
        if (status =~ "^2") {
            append_hf("Call-Outcome: Normal;id=$ci\\r\\n");
        } else if (status == "486") {
            append_hf("Call-Outcome: NumberBusy;id=$ci\\r\\n");
        } else if (status == "408") {
            append_hf("Call-Outcome: NoAnswer;id=$ci\\r\\n");
        } else if (status =~ "^[3-6]") {
            append_hf("Call-Outcome: CallFailed;id=$ci\\r\\n");
        }
    } else if (is_method("BYE") && status =~ "^2") {
        append_hf("Call-Outcome: Normal;cause=bye;id=$ci\\r\\n");
    }
}
event_route[dialog:end] {
    update_stat("outcome_normal", "+1");
    xlog("L_NOTICE", "{\\"call_id\\":\\"$ci\\",\\"from\\":\\"$fu\\",\\"to\\":\\"$tu\\",\\"outcome\\":\\"Normal\\",\\"seconds\\":\\"$DLG_lifetime\\",\\"at\\":\\"$TS\\"}\\n");
}
event_route[dialog:failed] {
    update_stat("outcome_call_failed", "+1");
    xlog("L_NOTICE", "{\\"call_id\\":\\"$ci\\",\\"from\\":\\"$fu\\",\\"to\\":\\"$tu\\",\\"outcome\\":\\"CallFailed\\",\\"at\\":\\"$TS\\"}\\n");
}
"""

STATELESS_ROUTE = """\
request_route {{
    if (!mf_process_maxfwd_header("70")) {{
        sl_send_reply("483", "Too Many Hops");
        exit;
    }}
    if (!has_totag()) $du = "sip:{server}{parameter}";
    forward();
}}
"""


def configuration(job, device, server, tcp):
    """The text of a configuration; job: full, routing (tm and rr only) or stateless."""
    values = {
        "device": device,
        "server": server,
        "transport": "tcp" if tcp else "udp",
        "tcp": TCP if tcp else "disable_tcp=yes",
        "parameter": ";transport=tcp" if tcp else "",
    }
    common = COMMON.format(**values)
    if job == "stateless":
        return common + STATELESS_ROUTE.format(**values)
    if job == "routing":
        return common + STATEFUL.format(on_invite="", **values)
    on_invite = 'dlg_manage();\n    update_stat("calls_started", "+1");'
    return common + FULL_MODULES + STATEFUL.format(on_invite=on_invite, **values) + FULL_ROUTES


def command(config, folder, megabytes=512):
    # Its fast allocator for both kinds of memory, receive buffers as large as those of the others; all processes stay
    # children of the first.
    options = ["-x", "fm", "-X", "fm", "-DD", "-E", "-m", megabytes, "-M", 16, "-b", 4_194_304, "-Y", folder]
    return ["kamailio", "-f", config, *options]
