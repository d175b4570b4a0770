//! Doors to what is read of charts and of chart repositories, for the fuzz targets. No other build has them.

use super::{chart, index};
use crate::package::component::{ChartTexts, images_of_chart};

/// Reads the chart in `tar` and finds the images that it names.
pub async fn images(tar: &[u8]) -> Result<Vec<String>, String> {
    let texts = ChartTexts::of(chart::files(tar).await?)?;
    Ok(images_of_chart(&texts, &[]))
}

/// Finds a chart in the index of a repository; its address.
pub fn listed(index: &str, name: &str, version: &str) -> Option<String> {
    index::find(index, name, version).ok().map(|listed| listed.url)
}
