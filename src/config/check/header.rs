//! Header names of the user's (RFC 3261 §25.1 `token`).

use super::Checker;
use crate::config::report::Given;
use crate::scan::is_of_token;
use crate::sip::HeaderName;

/// Headers that SIP itself uses: one of these as a header of ours would be taken off messages that need it.
const STANDARD: &[&str] = &[
    "Accept",
    "Accept-Contact",
    "Accept-Encoding",
    "Accept-Language",
    "Alert-Info",
    "Allow",
    "Allow-Events",
    "Authentication-Info",
    "Authorization",
    "Call-ID",
    "Call-Info",
    "Contact",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-Type",
    "CSeq",
    "Date",
    "Diversion",
    "Error-Info",
    "Event",
    "Expires",
    "From",
    "Geolocation",
    "History-Info",
    "Identity",
    "In-Reply-To",
    "Max-Breadth",
    "Max-Forwards",
    "MIME-Version",
    "Min-Expires",
    "Min-SE",
    "Organization",
    "P-Asserted-Identity",
    "P-Charging-Vector",
    "P-Preferred-Identity",
    "Path",
    "Priority",
    "Privacy",
    "Proxy-Authenticate",
    "Proxy-Authentication-Info",
    "Proxy-Authorization",
    "Proxy-Require",
    "RAck",
    "Reason",
    "Record-Route",
    "Recv-Info",
    "Refer-Sub",
    "Refer-To",
    "Referred-By",
    "Reject-Contact",
    "Replaces",
    "Reply-To",
    "Request-Disposition",
    "Require",
    "Retry-After",
    "Route",
    "RSeq",
    "Security-Client",
    "Security-Server",
    "Security-Verify",
    "Server",
    "Service-Route",
    "Session-Expires",
    "Session-ID",
    "Subject",
    "Subscription-State",
    "Supported",
    "Target-Dialog",
    "Timestamp",
    "To",
    "Unsupported",
    "User-Agent",
    "User-to-User",
    "Via",
    "Warning",
    "WWW-Authenticate",
];

impl Checker<'_> {
    /// The name of a header that is read and left where it is.
    pub(super) fn header(&mut self, given: &Given<'_>) -> Option<HeaderName> {
        let wrong = given.text.char_indices().find(|(_, c)| !u8::try_from(*c).is_ok_and(is_of_token));
        match wrong {
            Some((start, c)) => {
                let part = start..start + c.len_utf8();
                let what = format!("is no header name: `{}` cannot be in one", c.escape_debug());
                given.mistake_at(self.report, part, what);
                None
            }
            None if given.text.is_empty() => {
                given.mistake(self.report, "must be a header name");
                None
            }
            None => Some(given.text.into()),
        }
    }

    /// The name of a header that is put on or taken off messages: none that SIP itself uses.
    pub(super) fn own_header(&mut self, given: &Given<'_>) -> Option<HeaderName> {
        let name = self.header(given)?;
        if name.len() == 1 || STANDARD.iter().any(|standard| standard.eq_ignore_ascii_case(&name)) {
            let kind = if name.len() == 1 { "compact form of a header" } else { "header" };
            given
                .mistake(self.report, format!("is `{name}`, a {kind} that SIP itself uses"))
                .help(format!("choose a name of your own, such as `X-{name}`"));
            return None;
        }
        Some(name)
    }
}
