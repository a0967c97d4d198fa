//! Getting into the dashboard.

use testkit::browser::{Browser, thirtyfour::prelude::*};

/// For `MODELGATE_ADMIN_TOKEN`.
pub(crate) const TOKEN: &str = "an-admin-token-of-the-tests";

/// Signs in, and waits for the overview.
pub(crate) async fn sign_in(browser: &Browser, url: &str) {
    browser.goto(format!("{url}/sign-in")).await.expect("the page to sign in");
    browser.find(By::Id("token")).await.expect("a field").send_keys(TOKEN).await.expect("it takes the token");
    browser.find(By::Css("form button")).await.expect("a button").click().await.expect("a click");
    browser.query(By::Css("nav[aria-label]")).first().await.expect("the overview");
}
