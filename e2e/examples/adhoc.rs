//! Ad hoc.
fn main() {
    let mut a = std::env::args().skip(1);
    let urls: Vec<String> = a.by_ref().collect();
    let n = std::time::Instant::now();
    let r = lunette_e2e::iscsi_test_cu::Suite::new(urls)
        .limit(std::time::Duration::from_secs(30))
        .run(|_| true)
        .unwrap();
    for o in &r {
        println!("{}  {}", o.name, o.verdict);
    }
    eprintln!("{:?}", n.elapsed());
}
