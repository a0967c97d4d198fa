//! Getting into the dashboard.

use testkit::browser::{Browser, thirtyfour::prelude::*};

/// For `MODELGATE_ADMIN_TOKEN`.
pub(crate) const TOKEN: &str = "an-admin-token-of-the-tests";

/// Signs in, and waits for the overview.
pub(crate) async fn sign_in(browser: &Browser, url: &str, token: &str) {
    browser.goto(format!("{url}/sign-in")).await.expect("the page to sign in");
    browser.find(By::Id("token")).await.expect("a field").send_keys(token).await.expect("it takes the token");
    browser.follow("form button").await;
    browser.query(By::Css("nav[aria-label]")).first().await.expect("the overview");
}
