//! Serves folders as repositories of a model hub.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use octet_test_hub::{Repo, TestHub};

/// A model hub on this machine, for tests. Faults: POST a JSON list to /_control/faults.
#[derive(Parser)]
#[command(name = "octet-test-hub")]
struct Args {
    /// A folder and the repository that it is
    #[arg(long, value_name = "OWNER/NAME=DIR", value_parser = pair, required = true)]
    repo: Vec<(String, String)>,
    /// Accept terms before: only these accounts have (may be given several times)
    #[arg(long, value_name = "OWNER/NAME=ACCOUNT", value_parser = pair)]
    gated: Vec<(String, String)>,
    /// An account and its access token
    #[arg(long, value_name = "ACCOUNT=TOKEN", value_parser = pair)]
    account: Vec<(String, String)>,
    /// Where to listen; 0 takes any free port
    #[arg(long, default_value_t = 0)]
    port: u16,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let hub = TestHub::start(args.port).await?;
    for (account, token) in &args.account {
        hub.allow(token, account);
    }
    for (name, folder) in &args.repo {
        let folder = PathBuf::from(folder);
        let repo = Repo::from_folder(&folder).with_context(|| folder.display().to_string())?;
        let gates = args.gated.iter().filter(|(repo, _)| repo == name);
        let accepted: Vec<&str> = gates.map(|(_, account)| account.as_str()).collect();
        hub.publish(
            name,
            match accepted.is_empty() {
                true => repo,
                false => repo.gated(&accepted),
            },
        );
    }
    println!("{}", hub.url());
    std::io::stdout().flush()?;
    std::future::pending().await
}
