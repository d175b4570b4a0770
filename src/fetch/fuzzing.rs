//! Entry points for the fuzz targets of charts and chart repositories. Other builds do not contain them.

use super::{chart, index};
use crate::package::component::{ChartTexts, images_of_chart};

/// Reads the chart in `tar` and finds the images that it names.
pub async fn images(tar: &[u8]) -> Result<Vec<String>, String> {
    let texts = ChartTexts::of(chart::files(tar).await?)?;
    Ok(images_of_chart(&texts, &[]))
}

/// The address of a chart in the index of a repository.
pub fn listed(index: &str, name: &str, version: &str) -> Option<String> {
    index::find(index, name, version).ok().map(|listed| listed.url)
}
