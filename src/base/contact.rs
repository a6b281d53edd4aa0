//! How long a server may take when it is spoken to for the first time.

use std::time::Duration;

/// After so long without an answer a server that was never heard counts as out of reach, retries included: a wrong
/// address or a closed port should not look like a slow server. A lost SYN packet is sent again three times
/// meanwhile (after 1, 3 and 7 s, tcp(7)).
pub(crate) const FIRST_CONTACT: Duration = Duration::from_secs(15);
